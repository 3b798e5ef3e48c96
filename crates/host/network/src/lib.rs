//! Pod network, service load balancing and cluster DNS.
