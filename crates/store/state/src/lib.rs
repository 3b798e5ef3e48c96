//! Versioned keys with transactions and watch, embedded in one file.
