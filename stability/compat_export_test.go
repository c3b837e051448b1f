package stability

import "github.com/wastability/wastability/stability/internal/link"

// Reliance names a part of whatsmeow's inside.
type Reliance = link.Reliance

// The parts that tests take away.
const (
	RelyTap        = relyTap
	RelyLogin      = relyLogin
	RelyProbe      = relyProbe
	RelyQueueLoop  = link.QueueLoop
	RelyLoopWords  = link.LoopWords
	RelyTable      = link.HandlerTable
	RelySendInside = link.SendInside
	RelyDispatch   = link.DispatchInside
)

// Without makes the Manager work as if these parts were missing.
func Without(parts ...Reliance) Option { return func(c *config) { c.without = parts } }
