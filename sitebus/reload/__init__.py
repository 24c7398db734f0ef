"""Reload on change: which files a site is made of, and what its visitors see of a reload.

`opened` notes what the process opens, `modules` and `sources` say which files matter, `globs` reads
patterns, `stamps` knows whether a file has changed, `places` which directories tell of it,
`notices` waits for that, on Linux by `inotify`, `agenda` says when to look for other files, `named`
is a set that tells of them, `watcher` puts these together, `bytecode` checks changed code and
removes what was compiled from the old, `guard` tires a reload loop. `face` is what browsers get to
see.
"""
