"""Other people's files as episodes: each format is one module that makes a `Source`, and one entry in `load.FORMATS`.

    "minari:ID"    \\                         minari ----\\
    "hdf5:", "npz:"|                          hdf5 ------|  Source: spec, read()  ->  rows, one an episode
    "table:NAME"    }  guard: nothing in a    table ----- }  identity                  `load_dataset` reads them
    "lerobot:NAME" |   file is believed,      lerobot ---|                             `StreamWindows` as it trains
    "chat:NAME"    /   imported or called     chat ------/

`arrays` turns Arrow lists, encoded images and JSON lines into arrays, `infer` guesses the spaces where a file does not
name them, `columns` says what the columns of a table mean. Rows are checked in `data`; nothing here writes a file.
"""
