"""The live dashboard at ``/``: one page, fed by server-sent events from one sampler."""
