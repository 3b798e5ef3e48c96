"""A small web shop: the sample application that wharf builds, tests, deploys and watches."""
