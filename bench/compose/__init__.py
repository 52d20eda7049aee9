"""From a command line to the objects of a run: settings are checked, the model, method and prompts are built.

Import `Settings` and the config classes from `settings`, `Component` and the checks of configured values from
`components`, the built objects from `workbench`. Start with `settings.settings_from`, then
`workbench.build_workbench`.
"""
