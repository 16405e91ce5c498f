"""Learned group convolution: from ResNet to Fully Learnable Group Convolution and the duplication rule."""
