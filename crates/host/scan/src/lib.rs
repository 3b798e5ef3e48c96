//! Packages in image layers to vulnerabilities.
