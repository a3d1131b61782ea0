"""Reproduce the report's Table 1 on the data set of DCASE 2020 Task 2: train, score and evaluate its four systems.

`reproduce` makes units of work (a machine type with a seed), `workers` runs them, `units` trains and scores one;
`systems` has the recipes, `table1` makes figures of the scores, and `report` writes the results. Each ensemble member
is trained once for a machine type and a seed; systems are made of the members' scores.
"""
