"""The rules that look at a statement.

A rule names the node classes that it looks at, so a rule that does not concern a statement costs nothing.
``docs/query_rules.md`` explains each code; a code keeps its meaning for ever.
"""
