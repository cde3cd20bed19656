"""Config files: what a cluster is to run, in YAML with Ray Serve's schema.

mistakes.py     what is wrong with a config, and where
source.py       YAML that remembers where everything stands
schema.py       what a config may hold
validation.py   from values to the schema, or to all that is wrong with them
importing.py    importing applications, each in a fresh process
deploying.py    making a config's applications those of a cluster
writing.py      config files as text, of code and of what is deployed
reference.py    the schema for readers and editors
"""
