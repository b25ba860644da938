package main

import "github.com/telemark-otel/telemark/internal/identity/client"

// nextStep says which command comes next, where an instance's refusal has one.
// For the others the instance's own words are shown.
var nextStep = map[string]string{ //nolint:gosec // words about tokens, none of which is one
	"operator_missing":        "It has no operator yet: 'telemark operator register URL'.",
	"operator_registered":     "It has an operator already, and keeps it. After a reboot its operator signs anew with 'telemark operator renew URL'.",
	"operator_renewal_needed": "Its operator has to sign the key of this boot: 'telemark operator renew URL'.",
	"owner_missing":           "It has no owner yet: 'telemark owner register URL --token-file FILE', with the token that the operator got.",
	"owner_not_expected":      "The operator named another owner's key; 'telemark owner key show' prints yours, to compare.",
	"token_missing":           "Give --token-file with the token that the operator got.",
	"token_invalid":           "Ask the operator for the file that 'telemark operator register' wrote.",
	"workload_missing":        "Nothing is configured: 'telemark workload configure URL --image …'.",
	"image_mismatch":          "'telemark workload status URL' shows the configured image; without --image that one is exposed.",
	"counter_mismatch":        "Something happened in between, or somebody else signs for this instance too. Look with 'telemark workload status URL', and call again.",
	"state_unlinked":          "The VM was started anew: 'telemark storage unlock URL' first.",
	"state_linked":            "There is nothing to unlock.",
	"v1_required":             "Leave out --legacy.",
	"not_found":               "The service does not know this call. One without /v1/ is spoken to with --legacy.",
	"registry_unreachable":    "The step is kept, and the registry tried again.",
}

var doubtHelp = map[client.Reason]string{
	client.AnswerMalformed:     "Look whether this is the address of an instance of identityd, and whether it is http or https.",
	client.InstanceMismatch:    "Somebody else answers, or the VM was started anew and has a new key.",
	client.QuoteRefused:        "Nothing was signed. The reason says what the policy does not accept; collateral comes from --pccs-url or --collateral-dir, and a laboratory's root from --quote-roots.",
	client.QuoteMismatch:       "Nothing was signed. Somebody shows a quote that was made for something else.",
	client.StatementInvalid:    "Nothing was signed. What the instance says of itself contradicts its quote.",
	client.TLSKeyMismatch:      "Nothing was signed. Somebody sits between you and the instance. If that is a proxy of yours, say so with --ca.",
	client.StateRollback:       "Nothing was signed. The host put an old disk under the VM. Move the data to a new instance; nothing opens this one again.",
	client.MeasurementsChanged: "Nothing was signed. If the VM's image was changed on purpose, say so once with --accept-measurements; --policy says which image may run.",
	client.StorageRefused:      "The volume's key was not sent.",
	client.ChannelOpen:         "Use the https address of the instance (port 3443 by default), an SSH tunnel to this machine, or --allow-plaintext if all on the way may read it. A token is worth nothing to others where the operator named the owner's key (--owner-key).",
	client.SignerInvalid:       "Take an Ed25519 key: 'telemark owner key new FILE'.",
}
