"""A server in the shape of OpenAI's, over demur's decode loop, with several interventions at once.

wire.py      what a request may hold          replies.py   what is sent back
gate.py      sizes, times, keys, hosts        app.py       the routes (fastapi)
engine.py    the queue and the one thread that owns the model; what it needs of a session
session.py   that session: rows join and leave a running batch (torch)
prefixes.py  what was computed of the beginnings of prompts, for those that begin alike (torch)
writing.py   tokens into text: stop strings, log-probabilities
menu.py      the names that can be asked for  loading.py   what stands behind them (torch)
place.py     where a prompt stands along the refusal boundary (torch)
page.py      the playground                   start.py     from a command to a running server (torch)
"""
