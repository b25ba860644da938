// Command telemark is the command line of telemark: it makes development
// certificates and keys, reads receipts out of archived telemetry, explains
// refusals and checks collector configurations. It talks to registries, for those
// who run them, and to confidential VMs, for their operators and owners.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
