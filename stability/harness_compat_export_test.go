package stability

import "github.com/wastability/wastability/stability/internal/link"

// Reliance names a part of whatsmeow's inside.
type Reliance = link.Reliance

// The parts that tests take away.
const (
	RelyTap        = relyTap
	RelyLogin      = relyLogin
	RelyProbe      = relyProbe
	RelySent       = relySent
	RelyQueueLoop  = link.QueueLoop
	RelyLoopWords  = link.LoopWords
	RelyTable      = link.HandlerTable
	RelyHandlers   = link.HandlerList
	RelySendInside = link.SendInside
	RelyDispatch   = link.DispatchInside
	RelyFrames     = link.Frames
)

// The hello in another form than the link knows: it reads too little, or waits
// for too much.
const (
	HelloShort Reliance = "hello_short"
	HelloLong  Reliance = "hello_long"
)

// Without makes the Manager work as if these parts were missing.
func Without(parts ...Reliance) Option { return func(c *config) { c.without = parts } }
