"""Processes, meshes of devices, executors of the train step, resident features."""
