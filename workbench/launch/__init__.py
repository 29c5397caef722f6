"""From an experiment to jobs of a cluster: site profile -> scripts -> a chain of jobs; free of torch.

    site = read_site("perlmutter")
    jobs = chain(experiment, site, request)       # which jobs, in which order, on which nodes
    render(jobs[0], site, paths)                  # the script, exactly as it is submitted
    submit(jobs, site, paths)                     # each after the one before it

`workbench submit`, `workbench jobs` and `workbench cancel` are made of it.
"""
