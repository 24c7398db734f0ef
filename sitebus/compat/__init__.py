"""The module names of ``cherrypy.process`` and of ``magicbus``, over this package's own classes.

A program written for either keeps its code and changes its import lines, or calls
`sitebus.compat.cherrypy.install` and changes nothing else.
"""
