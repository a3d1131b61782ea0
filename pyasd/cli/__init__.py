"""The command line: every command is a thin call of the public API.

`app` is the `pyasd` command; the others hold one group of commands each, or what all of them share: `command` turns a
function into a command, `options` has the options that several commands take, `vocabulary` the names that help texts
list, and `terminal` what is printed.
"""
