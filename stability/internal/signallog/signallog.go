// Package signallog quiets libsignal, once in a process.
package signallog

import (
	"sync"

	"go.mau.fi/libsignal/logger"
)

// Silence gives libsignal a logger that says nothing, unless the program has
// set one. By itself libsignal makes one at the first use, without a lock, so
// that two clients that start at once race for it. It prints to standard
// output, also when a message is only tried with several Signal sessions.
var Silence = sync.OnceFunc(func() {
	if logger.Logger == nil {
		logger.Logger = silent{}
	}
})

type silent struct{}

func (silent) Debug(_, _ string)   {}
func (silent) Info(_, _ string)    {}
func (silent) Warning(_, _ string) {}
func (silent) Error(_, _ string)   {}
func (silent) Configure(string)    {}
