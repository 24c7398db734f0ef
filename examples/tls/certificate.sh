#!/bin/sh
# Make a self-signed certificate for this machine's own names, beside this file.
cd "$(dirname "$0")" || exit
umask 077
exec openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
    -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -keyout key.pem -out certificate.pem
