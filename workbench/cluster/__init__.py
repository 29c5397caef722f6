"""Training as a job of a cluster: where it runs, how it is stopped and goes on, and whether its ranks are well."""
