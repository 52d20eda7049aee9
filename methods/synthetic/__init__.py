"""Cost only: a given acceptance with the real work of a round, to see how fast a method could be.

Start with `draft`, the method (``method=synthetic``). `draft_cost` describes and runs the work of a round;
``conf/method/schedule`` has the descriptions. The harness builds these classes from ``conf/method`` and
imports nothing here.
"""
