"""PasteDeploy's ini files, as Pyramid, TurboGears and Zope have them: what they say, and load.

PasteDeploy itself reads them and loads the applications. Here is what it has no answer to: which
settings of ours the options of other servers are (`servers`), how an application of such a file is
mounted (`applications`), and a composite that is a `sitebus.Site` (`composite`).
How such a file becomes a configuration is for `sitebus.config.paste`.
"""
