"""What the command line uses to talk to a server and to read the local Nix store."""
