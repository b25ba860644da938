package main

import "github.com/telemark-otel/telemark/internal/reason"

// What to check, shared by reasons.
const (
	stepLint    = "Run 'telemark config lint' on the configuration of the agent, every gateway and the collector."
	stepInspect = "Run 'telemark receipt inspect --keys keys.json FILE' on the block to see every claim."
	stepAgent   = "Compare the versions of agent and collector ('otelcol-telemark --version'): a later format is not understood here."
	stepAttack  = "If no component explains it, somebody on the way did it: look at which gateway the peer in the collector's log line is."
	stepClocks  = "Compare the clocks of the collector and of the other nonce servers (timedatectl)."
	stepWindows = "Look at GET /metrics/status?kid=… on the collector's admin listener: it shows streams, gaps, duplicates and the last block." //nolint:gosec // kid is the name of a key, not a credential
	stepKeys    = "Run 'telemark key show --dir DIR' on the machine and compare its kid and PEM with the key file or registry."
	stepTamper  = "Take the machine out of service and enrol it anew after you know how its state was copied: a VM snapshot, a restored backup, or a cloned disk."
	stepRetry   = "Nothing, if it passes. If it stays, look at the collector's log and at its storage."
	stepBytes   = "Look for exporters, queues or brokers on the way that turn OTLP into another format: they lose types, or limit the size of attributes."
	stepLoc     = "Compare the location in 'telemark receipt inspect' with the policy: of the registry ('telemark fleet policy list --output json'), of the key file or of the tpmverify configuration."
	stepSource  = "See what the agent's machine knows: 'telemark location show --config agent.yaml' there."
)

// nextSteps says what to look at for each reason.
var nextSteps = map[reason.Reason][]string{
	reason.ReceiptMissing:          {"See that tpmsign stands in that pipeline of the agent, and that the data comes from an agent at all.", stepLint, stepBytes},
	reason.ReceiptNotUnique:        {stepLint, stepAttack},
	reason.ReceiptWrongType:        {stepBytes},
	reason.ReceiptTooLarge:         {stepAttack, stepAgent},
	reason.ReceiptMalformed:        {stepBytes, stepAttack},
	reason.ReceiptNotDeterministic: {stepAttack, "See that the signer is telemark, or follows docs/spec/receipt.md."},
	reason.ReceiptLabels:           {stepAgent, stepAttack},
	reason.ProfileUnknown:          {stepAgent},
	reason.AlgorithmUnknown:        {stepAgent},
	reason.ProofCount:              {stepAgent, stepAttack},
	reason.ProofMalformed:          {stepInspect, stepAttack},
	reason.TreeSizeMismatch:        {stepInspect, stepAttack},
	reason.StreamInvalid:           {"See `stream` of the agent's tpmsign, and whether it is named anew each time.", stepAttack},
	reason.AudienceMismatch:        {"Make `audience` of the agent's tpm extension and of the collector's nonce extension equal.", "See that the agent sends to the right deployment."},

	reason.NonceMissing:   {"Configure `nonce: {endpoint: …}` in the agent's tpm extension.", "Or accept `freshness: {require: sequence}` in tpmverify or for this key."},
	reason.NonceMalformed: {stepAgent, stepAttack},
	reason.NonceForged:    {"See that all collectors that issue or check nonces for this audience have the same secret.", stepAttack},
	reason.NonceForeign:   {"See whether two agents share a key directory or a saved nonce.", stepAttack},
	reason.NonceStoreLost: {"See that `storage` is set on the nonce extension and that its directory survives restarts.", "After a loss, this ends when agents have fetched new nonces (30 s); what was on its way is lost to verification."},
	reason.NonceExpired:   {"Look for a queue on the way that was blocked for longer than max_delay (24 h).", "Look whether the agent reaches the nonce endpoint: it signs on under an old nonce for max_age.", stepClocks},
	reason.NonceFuture:    {stepClocks},

	reason.UnknownKey:        {stepKeys, "See that the collector's key file is the one that you changed; its log says when it was read."},
	reason.KeyUnavailable:    {"Look at the collector's log: why does the source of keys not answer?", "With a registry: tpmverify_registry_up and tpmverify_registry_age, and the network between collector and registry."},
	reason.KeyPending:        {"Approve the machine at the registry: 'telemark fleet approve NAME'. What it sends from then on is accepted.", "Or put its endorsement key on the allow-list before it enrols: 'telemark fleet import'."},
	reason.KeyRevoked:        {"Ask whoever revoked it: the detail says why, 'telemark fleet show NAME' when its keys were attested, 'telemark audit list' who did it.", "Take it back, if it was an error, with 'telemark fleet approve --reinstate'. Its keys stay revoked: it enrols a new one.", "With a key file: `revoked` in the key's entry says why. The collector reads the file again by itself; what it refused meanwhile is not accepted later."},
	reason.KeyExpired:        {"Compare not_before and not_after in the key's record with the nonce time in 'telemark receipt inspect'.", "With a registry: 'telemark fleet show NAME'. A machine that was replaced is superseded, and stays so; another one has to reach the registry to renew its lease."},
	reason.AlgorithmMismatch: {stepKeys},
	reason.CurveMismatch:     {stepKeys},

	reason.DigestMismatch:    {"Look for processors between tpmsign and tpmverify that change data: attributes, transform, filter, groupbyattrs, redaction.", "Look for splits (send_batch_max_size, sending_queue::batch::max_size): without `tolerate: [split]` a fragment looks changed.", stepLint, stepAttack},
	reason.ResourceChanged:   {"Look for resource, resourcedetection and k8sattributes processors on the gateways that overwrite or delete.", stepLint, stepAttack},
	reason.ResourceEnriched:  {"Set `tolerate: [enrich]` on the agent's tpmsign, or stop the gateway from adding attributes.", stepLint},
	reason.BlockSplit:        {"Set `tolerate: [split]` on the agent's tpmsign.", "Or leave send_batch_max_size and batch::max_size of the gateways at 0.", stepLint},
	reason.ManifestMissing:   {"Look for what removes the resource attribute telemark.manifest or limits the size of attributes.", stepBytes},
	reason.ManifestMalformed: {stepBytes, stepAttack},
	reason.ManifestMismatch:  {stepInspect, stepAttack},
	reason.ItemMismatch:      {"Look for processors on the gateways that change items, scopes or metric headers.", stepLint, stepAttack},
	reason.ReservedAttribute: {"Look for a verifier (tpmverify with attributes) before this one, or an application or gateway that writes telemark.* attributes.", stepAttack},
	reason.EmptyContainer:    {"Look for a filter on the way that leaves empty metrics or scopes.", stepLint, stepAttack},
	reason.HiddenField:       {"See whether an SDK or gateway on the way speaks a later OTLP than this collector.", stepAttack},
	reason.InvalidUTF8:       {stepBytes, stepAttack},
	reason.InvalidID:         {stepAttack},
	reason.InvalidValue:      {stepAttack},
	reason.TooDeep:           {stepAttack},
	reason.EntityRefs:        {"See whether a gateway adds entity references to resources.", stepAgent},

	reason.SignatureInvalid: {stepKeys, stepInspect, stepAttack},

	reason.UnprovenTPM:              {"Give the registry the machine's endorsement key hash ('telemark fleet import'), or the roots of its TPM's maker, and let the machine enrol again.", "Or accept such machines: policy evidence `any`."},
	reason.IdentityMismatch:         {"Compare the attribute that `bind` names with the key's name in the key file, or at the registry ('telemark fleet list').", "See whether an application on the machine sets host.name itself; put a resource processor before tpmsign."},
	reason.NotFresh:                 {"Look whether the agent reaches the nonce endpoint, and how long its queue is.", stepClocks},
	reason.LocationMissing:          {stepLoc, stepSource},
	reason.LocationStale:            {stepLoc, stepSource},
	reason.LocationSourceNotAllowed: {stepLoc, stepSource},
	reason.LocationTooInaccurate:    {stepLoc, stepSource},
	reason.LocationOutside:          {stepLoc, "Hold the position against the area: 'telemark geofence check FILE LATITUDE LONGITUDE'.", "See whether the machine was moved."},
	reason.ImpossibleTravel:         {stepLoc, "See whether an earlier position was wrong, or the machine's key signs in two places.", "A wrong one is outlived: the machine is let in again once it could have come from there. `max_accuracy` keeps most of these out."},

	reason.Duplicate:         {"Nothing, if it is rare: queues and retries on the way send twice.", "If it is not: look for two exporters or gateways that lead here with the same data.", stepWindows},
	reason.InFlight:          {stepRetry},
	reason.TooLate:           {"Look for a queue on the way that was blocked for long; the block's place was given up after max_delay or because too many were missing.", stepWindows},
	reason.EpochRetired:      {"Look for data of an earlier start of the agent that was held up on the way.", "See whether two agents run with one key.", stepWindows},
	reason.Equivocation:      {stepTamper, stepInspect},
	reason.ChainBroken:       {stepTamper, stepInspect},
	reason.WindowFull:        {stepWindows, "See whether something on the way takes blocks or items out all the time."},
	reason.StoreUnavailable:  {"Look at the collector's log and at the disk of its storage extension."},
	reason.RefusedDownstream: {"Look at the collector's log for the exporter behind tpmverify that answered with a permanent error."},
}
