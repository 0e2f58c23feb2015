"""The third act: the same scan between two emulated facilities, and the link between them cut for five seconds.

The instrument stands at site `aps` and measures at its own pace, workers at site `alcf` reconstruct. Only references go
over the event plane; the counts cross the link once, from gateway to gateway. For root.
"""
