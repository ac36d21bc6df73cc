"""The transfer experiment: does attention help a network that was pretrained without it?"""
