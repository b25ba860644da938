// Command telemark is the command line of telemark: it makes development
// certificates and keys, reads receipts out of archived telemetry, explains
// refusals and checks collector configurations. It talks to no server.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
