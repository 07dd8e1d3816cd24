"""What an environment shows and takes, as plain data: spaces in JSON and in words, and values by leaf.

    space   Dict(camera=Box(64, 64, 3), joints=Box(7))                    JSON and words; no file is believed
    leaves  observation.camera           observation.joints               the names of variables
    arrays  [T, 64, 64, 3] uint8         [T, 7] float32                   with zeros where a value is not known
    masks   missing.observation.camera   missing.observation.joints       True there, only where something is

An `EnvironmentSpec` keeps both spaces and names where they come from. Nothing here makes an environment, and
behind `leaves.split` neither NaN nor None stands for a value.
"""
