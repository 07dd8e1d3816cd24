"""Other people's files as episodes: each format is one module that makes a `Source`, and one entry in `load.FORMATS`.

    "minari:ID"    \\                         minari ----\\
    "hdf5:FILE"     }  guard: nothing in a    hdf5 ------ }  Source: spec, read()  ->  rows, one an episode
    "table:NAME"    |  file is believed,      table ----- |  identity                  `load_dataset` reads them
    "lerobot:NAME" /   imported or called     lerobot ---/                             `StreamWindows` as it trains

`arrays` turns Arrow lists, encoded images and JSON lines into arrays, `infer` guesses the spaces where a file does not
name them, `columns` says what the columns of a table mean. Rows are checked in `data`; nothing here writes a file.
"""
