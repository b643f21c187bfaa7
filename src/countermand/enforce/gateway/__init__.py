"""The gateway: what the guard lets in is forwarded to an upstream, and cut where the guard cuts it.

routes    which upstream, and which guard before it
head      what a request's head may be, and what of it goes on
forward   one HTTP request and its answer, as they come
sockets   one web socket, both ways
upstream  the service behind it, by aiohttp
problem   what the gateway answers itself
"""
