package replay

// reservation spares the claims of a window their writes. With whatever else of
// the window is written goes a number that is ahead of what was claimed, and a
// claim at or below it that is durable can be made without a further write:
//
//	1 … settled and open …  tried | ahead | reserved
//
// Should the process die, the next one knows that everything up to the number
// that is not settled may have been delivered, and says so when it comes. That
// is more than was claimed, but never less. A store that is closed in good order
// writes what it knows exactly instead.
//
// It is two numbers for each window that was made for a trusted key, whatever is claimed.
type reservation struct {
	tried    uint64 // highest number claimed since the store was opened
	reserved uint64 // as written last, or being written
	durable  uint64 // claims at or below it need no write; never above what is on disk
	suspect  uint64 // up to here a process that died, or whose attempts were forgotten, may have delivered

	last   uint64 // tried, when it was written last
	claims uint64 // since then
	ahead  uint64 // how far reserved was ahead of tried then
}

// Bounds of how far a reservation goes ahead: a few times of what was claimed
// since the write before, so that it lasts for the next requests, and falls back
// when a stream calms down. After a crash, that much is called a redelivery
// without being one.
const (
	aheadTimes  = 4
	aheadDecay  = 8       // falls by one part in so many with each write
	aheadSpread = 16      // numbers for each claim, where other verifiers get some of the stream
	maxAhead    = 1 << 12 // numbers
)

// covers notes a claim of no and says whether it can be made without a write.
func (r *reservation) covers(no uint64) bool {
	r.tried = max(r.tried, no)
	r.claims++
	return no <= r.durable
}

// advance chooses what the write that begins reserves. From here on nobody may
// rely on more than that.
func (r *reservation) advance() {
	used := min(r.tried-min(r.last, r.tried), aheadSpread*r.claims)
	r.ahead = min(max(aheadTimes*used, r.ahead-r.ahead/aheadDecay), maxAhead)
	r.last, r.claims = r.tried, 0
	r.set(min(max(r.tried, r.suspect)+r.ahead, maxNumber-1))
}

// end gives back what was reserved and not claimed: what was claimed is written
// one by one.
func (r *reservation) end() { r.set(r.suspect) }

func (r *reservation) set(no uint64) {
	r.reserved = no
	r.durable = min(r.durable, no)
}

// wrote says that what was reserved last is durable.
func (r *reservation) wrote() { r.durable = r.reserved }

// restore is for a window that another process left.
func (r *reservation) restore(reserved uint64) {
	r.reserved, r.durable, r.suspect = reserved, reserved, reserved
}
