package api

// Operator is the body of POST /operator/register.
type Operator struct {
	Pubkey    Hex `json:"pubkey"`
	Signature Hex `json:"signature"` // over the raw instance key
	// OwnerPubkey names the only key that may become owner. It is optional. In
	// the older form nothing signs it: it is worth what the channel is worth.
	OwnerPubkey Hex `json:"owner_pubkey,omitempty"`
}

// Renewal is the body of POST /v1/operator/renew, after a reboot.
type Renewal struct {
	Pubkey    Hex `json:"pubkey"`
	Signature Hex `json:"signature"` // over the raw instance key of this boot
}

// Owner is the body of POST /owner/register.
type Owner struct {
	Pubkey    Hex `json:"pubkey"`
	Signature Hex `json:"signature"` // over the raw instance key
	// SealedKey is the volume's key, wrapped for this VM and signed by its owner in
	// a form of its own (package unlock). Optional.
	SealedKey Hex `json:"sealed_key,omitempty"`
}

// Configure is the body of POST /workload/configure. All members are required,
// but for Registry.
type Configure struct {
	InstancePubkey Hex      `json:"instance_pubkey"`
	Image          *string  `json:"image"`
	PersistDirs    []string `json:"persist_dirs"` // [] for none
	Port           *int64   `json:"port"`
	// Registry is how a private image is pulled. It is a secret.
	Registry *Credentials `json:"registry_credentials,omitempty"`
}

// Credentials of a registry of images, kept in memory only.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// String keeps them out of logs.
func (Credentials) String() string { return "[credentials]" }

// GoString keeps them out of logs.
func (Credentials) GoString() string { return "[credentials]" }

// Expose is the body of POST /workload/expose. Both members are required.
type Expose struct {
	InstancePubkey Hex     `json:"instance_pubkey"`
	Image          *string `json:"image"`
}

// Unlock is the body of POST /v1/storage/unlock, after a reboot.
type Unlock struct {
	InstancePubkey Hex `json:"instance_pubkey"`
	// Signature is the owner's over the raw new instance key, as at registration.
	Signature Hex `json:"signature"`
	SealedKey Hex `json:"sealed_key"`
	// LastCounter is the highest counter that the owner's tool saw, 0 for none.
	LastCounter *uint64 `json:"last_counter"`
}

// StorageRequest is the body of POST /v1/storage/request. Nobody signs it: the
// answer is of use to the owner that it names alone.
type StorageRequest struct {
	Owner Hex `json:"owner"` // Ed25519 key of who will answer
	Nonce Hex `json:"nonce"` // 32 bytes
}
