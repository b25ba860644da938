// Command identityd is the identity service of a confidential VM: it gives the
// VM its key, lets an operator and then an owner take their roles, unlocks
// encrypted storage, runs the owner's container with temporary SSH, and closes
// the door behind them. README.md says how to run it.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
