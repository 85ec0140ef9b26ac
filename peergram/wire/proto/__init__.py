"""The protobuf messages of the wire: our own .proto files and the modules that `tools/generate_proto` makes from them."""
