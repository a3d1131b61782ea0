"""The DCASE data sets: their layouts, one TOML file a year, and their download. Nothing here loads torch or pandas."""
