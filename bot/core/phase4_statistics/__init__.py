"""Every figure of the statistics once: its key, its type, and the metric it becomes.

A module for each service declares its figures. None of them imports a service, so whoever reads figures
(metrics, rolling rates, dashboard) loads no service that is off.
"""
