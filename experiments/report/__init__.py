"""`python -m experiments.report`: one HTML page with interactive figures and tables of sweeps."""
