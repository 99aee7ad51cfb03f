// Command etcd is what etcd's own main package is, which `go install` refuses for the folders that its module replaces others by.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
