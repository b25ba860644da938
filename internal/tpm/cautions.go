package tpm

// Imported says whether the key was made by others.
func (k *Key) Imported() bool { return k.rec.From != nil }

// Cautions say what about the key is worse than with a key that is made here. A
// key that is made here has none.
func (k *Key) Cautions() []string { return k.rec.cautions() }

func (r *record) cautions() []string {
	if r.From == nil {
		return nil
	}
	var all []string
	if r.protected() {
		all = append(all, "the key is under dictionary attack protection (noda is not set): while the TPM is locked out, by wrong auth values of any program or by several power cuts, nothing is signed and blocks wait")
	}
	if len(r.Auth) == 0 {
		all = append(all, "the key has no auth value: whoever can use this TPM, and for blobs has a copy of them, can sign as this machine")
	}
	if len(r.key.public.AuthPolicy.Buffer) > 0 {
		all = append(all, "the key has a policy too: whoever meets it can sign as this machine")
	}
	if r.From.Handle != 0 {
		all = append(all, "the key has no blobs here: it is lost when it is evicted from its persistent handle")
	}
	return all
}

// protected says whether wrong auth values of the key are counted, and a lockout
// holds it.
func (r *record) protected() bool { return !r.key.public.ObjectAttributes.NoDA }
