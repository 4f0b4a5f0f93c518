"""An open-loop load generator: requests are sent by the clock, whatever becomes of those before.

Latency counts from the time a request was meant to be sent, so that a service that stalls cannot hide it by holding
the generator up.
"""
