"""The WKV scan: exponentially decayed weighted mean of values, stabilised by a running maximum."""
