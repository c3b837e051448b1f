package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/wastability/wastability/examples/internal/demo"
)

// follow prints what a replica says, and scans the codes that it shows.
func (p *players) follow(lines io.Reader) {
	in := bufio.NewScanner(lines)
	for in.Scan() {
		code, isCode := strings.CutPrefix(in.Text(), "code ")
		if !isCode {
			fmt.Fprintln(p.out, in.Text())
			continue
		}
		if err := p.world.Account.Phone().Scan(code); err != nil {
			demo.Say("phone", "could not use the code: %v", err)
		}
	}
}
