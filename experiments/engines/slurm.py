"""stub"""
train=None
