"""MongoDB filters, pipelines and commands: what they mean, and advice."""
