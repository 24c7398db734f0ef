#!/bin/sh
# Make a directory beside this file in which the site's user may remove the pid file.
cd "$(dirname "$0")" || exit
exec install -d -o nobody -g "$(id -gn nobody)" run
