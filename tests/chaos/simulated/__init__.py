"""The real code on a simulated world: one seed decides all that happens, and it replays exactly.

Receiver, events worker and callbacks worker run as they are in production, as many processes in
one. Simulated is only what lies outside of them: time, broker, disk, HTTP, and the process itself,
which can be stopped or killed between any two steps.
"""
