"""The embedded image set: scenes drawn by code, one family of scenes per module."""
