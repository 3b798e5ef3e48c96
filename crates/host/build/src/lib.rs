//! Dockerfile to build graph to image.
