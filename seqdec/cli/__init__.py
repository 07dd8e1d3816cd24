"""Words in, files and lines out: the only place that knows a flag, prints, and reads a config.json.

    main: words -> verb -> options: its record -> train | evaluate | data | record | demo | console -> an exit code
                                                    loading, config, folders: what these share

A verb is a record of options and a function of it, side by side. What it does is done by the library (`finetune.py` and
the rooms), which knows nothing of flags: an error's `option` becomes one here. Until a verb has been read from the
words and its folders are in order, nothing heavy is imported.
"""
