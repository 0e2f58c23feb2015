"""The second act: the same scan as a stream of events at a broker, with a worker killed in the middle.

The instrument sends each rotation as an event, workers share them as members of a group and send pictures, the main
process assembles. One worker is killed with SIGKILL while it works, another takes its place, and nothing is lost.
"""
