"""What the stages and tools are made of: configuration, data set, models, training, evaluation, export, report.

Imports go one way: ``stages/`` and ``tools/`` import this package, its rooms (``train``, ``export``, ...) import its
modules, and ``errors``, ``config`` and ``yaml_file`` import nothing of it but each other.
"""
